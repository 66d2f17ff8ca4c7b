"""Configurations of other trainers, read into a recipe: what each line becomes, and what cannot be had."""
