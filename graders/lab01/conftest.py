"""What the checks of lab 01 share. Checks need nothing but `lab`, which the plugin provides."""
