"""One room an IPAM mode. Each fills `omnipam.core.allocator.Allocator` and registers as an entry point."""
