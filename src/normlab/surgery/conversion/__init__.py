"""The parts of `convert`: what is asked for, what is carried over, what is exchanged and put back, and the table."""
