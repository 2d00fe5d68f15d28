"""The former name of `filters.review`: `python -m filters.audit draw` and `agree` go on working."""

from filters.review import main

if __name__ == "__main__":
    raise SystemExit(main())
