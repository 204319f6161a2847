"""python -m gansmith"""

from gansmith.cli import main

if __name__ == "__main__":
    main()
