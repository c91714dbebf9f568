"""One folder for each class of work: what a unit of it is, and how its answer is read, checked and resumed."""
