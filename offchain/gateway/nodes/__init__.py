"""Which nodes there are and how they are reached: the directory from the index, and connections that nodes dial."""
