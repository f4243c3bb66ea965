"""How good the instances are: average precision over novel classes."""
