"""The usage of this node: nginx's log files (`logs`), counting their lines (`log_counter`), how far
each log is read and confirmed (`log_cursors`), and sending (`sender`).

This room may touch the usage folder, usage.json and NATS. It knows no bundle and no key.
"""
