"""`python -m nstexp`: see `nstexp.cli`. It is another module because the processes of a parallel sweep import it."""

from nstexp.cli import main

if __name__ == "__main__":
    main()
