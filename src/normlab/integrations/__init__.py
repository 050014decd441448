"""Thin callbacks for trainers of other people; each module imports its library, so import the one you use."""
