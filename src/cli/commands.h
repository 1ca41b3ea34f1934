/* The commands; each is defined in cmd_<name>.c. */
#ifndef TN_CLI_COMMANDS_H
#define TN_CLI_COMMANDS_H

#include "cli/cli.h"

extern const tn_command tn_command_bench;
extern const tn_command tn_command_chat;
extern const tn_command tn_command_compose;
extern const tn_command tn_command_eval;
extern const tn_command tn_command_extract;
extern const tn_command tn_command_forward;
extern const tn_command tn_command_generate;
extern const tn_command tn_command_generate_docs;
extern const tn_command tn_command_help;
extern const tn_command tn_command_plan;
extern const tn_command tn_command_quantize;
extern const tn_command tn_command_resize;
extern const tn_command tn_command_train;
extern const tn_command tn_command_train_tokenizer;
extern const tn_command tn_command_inspect;
extern const tn_command tn_command_merge;
extern const tn_command tn_command_methods;
extern const tn_command tn_command_tokenize;
extern const tn_command tn_command_unmerge;
extern const tn_command tn_command_version;

#endif
