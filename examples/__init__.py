"""Small whole uses of the package beyond translation."""
