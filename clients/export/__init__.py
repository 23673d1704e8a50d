"""Write usage, ledger lines and statements to files: CSV, JSON, Parquet, and rows of FOCUS 1.2.

Rows come from an iterator and go to a writer one by one, so that memory stays flat however long the
export is. A file is written beside its final name and renamed when it is complete: half a file is
never mistaken for a whole one.
"""
