"""Carries out small tasks on small repositories and writes down what really happened.

Nothing here is played: the repositories are generated, the commands are run, the outcome of a task is the exit
code of its final check.
"""
