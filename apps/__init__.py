"""The dashboard (`analyzer dashboard`): reads a store and draws it; changes nothing."""
