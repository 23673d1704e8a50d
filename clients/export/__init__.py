"""Usage, ledger lines and statements as files: CSV, JSON, Parquet, and rows of FOCUS 1.2.

Rows come from an iterator and go to a writer one by one, so that memory stays flat however long the
export. A file is written beside its name and takes it when complete: a half one is never mistaken
for a whole one.
"""
