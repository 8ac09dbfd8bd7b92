"""AWS: addresses of elastic network interfaces."""
