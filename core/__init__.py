"""Decides: address arithmetic, ledgers, plans and grants. Pure: no SDK, no socket, no file, no clock of its own."""
