"""The text of the two upload fields: PEM blocks, other file formats, and keys that hide in text.

Pure: text comes in, values go out. It knows nothing of certificates beyond their outer form.
"""
