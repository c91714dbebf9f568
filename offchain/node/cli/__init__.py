"""The commands of `parallelix node`, one module for each kind of task."""
