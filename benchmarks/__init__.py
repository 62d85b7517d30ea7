"""What PROMA costs, in time and memory, and how exact it is: pytest-benchmark suites and the pages made from them."""
