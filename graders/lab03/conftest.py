"""What the checks of lab 03 share. Checks need nothing but `lab`, which the plugin provides."""
