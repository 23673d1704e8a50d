"""Visitors of the edge nodes: real TLS handshakes and HTTP requests, and the web server that the
nodes fetch from."""
