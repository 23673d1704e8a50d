"""The reference edge node: an nginx that serves HTTPS from certificates held in memory, and what drives it.

`nginx` runs it, `dataplane` puts and removes entries (`entry`), `prove` shows that a pair loads and is served,
`meter` and `usage_log` count what was served, by byte ranges of the node's own log.
"""
