"""The operator: leads, restores, and grants as nodes come and go, over any store."""
