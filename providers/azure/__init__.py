"""Azure: addresses of network interfaces of virtual machines and scale sets."""
