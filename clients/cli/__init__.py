"""``edgetls``: the command line for operators, finance and whoever tries the platform out."""
