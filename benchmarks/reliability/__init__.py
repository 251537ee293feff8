"""What belongs here tries the promises of docs/reliability.md: kills at any moment, bad input, the cost of digests."""
