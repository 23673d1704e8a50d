"""X.509 certificates: DER form, names, extensions, chains, and path validation (RFC 5280).

Pure: certificates, trust roots and a moment come in, values and findings go out.
"""
