"""Methods that only parametrise a weight: SR-STE, STE, LBC and magnitude."""
