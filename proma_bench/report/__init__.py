"""What a directory of runs says: the table of methods and metrics, and the plots."""
