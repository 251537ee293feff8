"""Alternating training of nested translation models."""
