"""The CNI IPAM plugin `omnipam-cni`: standard library only, and nothing of the rest of omnipam.

`omnipam cni install` copies this package, all but install.py, to where a container runtime finds plugins. A pod's start waits for
each import made here: json and socket are most of it, and what only trouble needs (the queue) is imported in trouble.
"""
