"""All changes of an export's state: a record and a fact in, a new record out; pure."""
