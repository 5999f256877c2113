-- What is not as it should be with a target that can be used all the same.
ALTER TABLE targets ADD COLUMN warning TEXT;
