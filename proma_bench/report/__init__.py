"""What a directory of runs says: tables, the paper's claims, plots, and all of it on one page."""
