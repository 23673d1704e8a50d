"""Private keys: their kind and size, their weaknesses, and the proof that one belongs to a leaf.

Pure but for the randomness of the signature challenge: key bytes come in, values go out.
"""
