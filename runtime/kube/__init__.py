"""A lean client for the Kubernetes API: configuration, requests, watches, reflectors, the Lease. It knows no IPAM."""
