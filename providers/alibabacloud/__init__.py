"""Alibaba Cloud: addresses of elastic network interfaces."""
