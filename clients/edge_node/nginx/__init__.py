"""The node's nginx: its configuration and folder (`process`, `conf/`), the entries in its memory
(`entry`, `dataplane`), running nginx processes (`process_scan`) and TLS handshakes (`handshake`).

This room knows no bundle, no signature and no NATS. It may touch nginx's control sockets, the
node's folder and /proc.
"""
