"""What training and running cost beside the stock models of Transformers: `python -m benchmarks.NAME`."""
