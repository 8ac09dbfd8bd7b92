"""Speed and size, each figure over a floor taken in the same run: `python -m benchmarks [NAME…]`, or `make bench`."""
