"""The rules for a pair (``policies.CHECKS``), and the judgement that they add up to.

Pure: texts, domains, trust roots and a moment come in; findings and accepted pairs go out.
"""
