"""POT's own tests, run through transportjax: see README.md.

The modules hold our functions under POT's names, with POT's arguments, one module for
each family; `NAMES` of each says which names. None of them imports POT.
"""
