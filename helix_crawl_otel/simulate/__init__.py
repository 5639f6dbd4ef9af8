"""Policies against each other on a modelled card, in virtual time."""
