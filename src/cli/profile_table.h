/* Profiles as tables. */
#ifndef TN_CLI_PROFILE_TABLE_H
#define TN_CLI_PROFILE_TABLE_H

#include <tenon/profile.h>

/* To standard output: phases, and within each its ops, longest first. */
void tn_cli_print_profile(const tn_profile *profile);

#endif
