"""Runs: the operator, the stores it serves, and the commands of a person."""
