/* Sentence patterns of each intent. No two intents share a pattern that could expand to the same words. */
#include "phrasings.h"

#include <stddef.h>

#define LIST(...)                                                                                                           \
    (const char *const[]) {                                                                                                 \
        __VA_ARGS__, NULL                                                                                                   \
    }

static const char *const ask_column[] = {"List the {C} of all {T}.",
                                         "Show the {c} of every {S}.",
                                         "What are the {C} of the {T}?",
                                         "Give me the {c} of each {S}.",
                                         "Which {C} do the {T} have?",
                                         "I need the {C} of all {T}.",
                                         "Print the {c} for all {T}.",
                                         "Find the {c} of every {S}.",
                                         "For each {S}, show the {c}.",
                                         "Return only the {C} of the {T}.",
                                         "Tell me the {c} of each {S}.",
                                         "Show me just the {c} of all {T}.",
                                         NULL};

static const char *const ask_columns[] = {"List the {c} and {d} of all {T}.",
                                          "Show the {c} and the {d} of every {S}.",
                                          "What are the {c} and the {d} of each {S}?",
                                          "Give me the {c} and {d} for every {S}.",
                                          "I want the {c} together with the {d} of all {T}.",
                                          "For each {S}, show the {c} and the {d}.",
                                          "Print {c} and {d} for all {T}.",
                                          "Return the {C} and {D} of the {T}.",
                                          "Find the {c} and also the {d} of each {S}.",
                                          "Show two columns of the {T}: {c} and {d}.",
                                          "Tell me both the {c} and the {d} of all {T}.",
                                          NULL};

static const char *const ask_everything[] = {"Show everything about the {T}.",
                                             "List all details of the {T}.",
                                             "Show all columns of the {T}.",
                                             "Give me the complete table of {T}.",
                                             "Print the full records of all {T}.",
                                             "Show every field of every {S}.",
                                             "I want to see all the data on the {T}.",
                                             "Return all information about the {T}.",
                                             "Display the whole table of {T}.",
                                             "Tell me everything about all {T}.",
                                             "What do we know about the {T}? Show all columns.",
                                             NULL};

static const char *const ask_everything_where[] = {
    "Show everything about the {T} {w}.",     "List all details of the {T} {w}.",    "Show all columns for the {T} {w}.",
    "Give me the full records of {T} {w}.",   "Which {T} {v}? Show everything.",     "I want all the data on {T} {w}.",
    "Return all information about {T} {w}.",  "Print the complete rows of {T} {w}.", "Tell me everything about the {T} {w}.",
    "Find the {T} {w} and show all columns.", "Display all fields of the {T} {w}.",  NULL};

static const char *const ask_distinct[] = {
    "Which different {C} do the {T} have?",        "List the distinct {C} of the {T}.",
    "Show every {c} of the {T} only once.",        "What are the unique {C} among the {T}?",
    "Give me the different {C} of all {T}.",       "List each {c} of the {T} without repeats.",
    "Which distinct {C} occur among the {T}?",     "Show the {C} of the {T} without duplicates.",
    "What different {C} are there among the {T}?", "Find all unique {C} of the {T}.",
    "Name the different {C} of the {T}.",          NULL};

static const char *const ask_count[] = {"How many {T} are there?",
                                        "Count the {T}.",
                                        "What is the number of {T}?",
                                        "Count all {T} in the table.",
                                        "How many {T} do we have?",
                                        "Tell me how many {T} exist.",
                                        "What is the total number of {T}?",
                                        "Give me the count of {T}.",
                                        "How many {T} are in the table?",
                                        "Find the number of all {T}.",
                                        "I want to know how many {T} we have.",
                                        NULL};

static const char *const ask_count_where[] = {"How many {T} {v}?",
                                              "Count the {T} {w}.",
                                              "What is the number of {T} {w}?",
                                              "Tell me how many {T} {v}.",
                                              "Find the number of {T} {w}.",
                                              "Give me the count of {T} {w}.",
                                              "Show how many {T} {v}.",
                                              "What is the count of {T} {w}?",
                                              "I want to know how many {T} {v}.",
                                              "Count all {T} {w}.",
                                              "Of all {T}, how many {v}?",
                                              NULL};

static const char *const ask_aggregate[] = {"What is the {a} {c} of all {T}?",
                                            "Find the {a} {c} of the {T}.",
                                            "Show the {a} {c} among the {T}.",
                                            "Tell me the {a} {c} of the {T}.",
                                            "What is the {a} {c} in the table of {T}?",
                                            "Give me the {a} {c} over all {T}.",
                                            "I need the {a} {c} of all {T}.",
                                            "Compute the {a} {c} of the {T}.",
                                            "Looking at all {T}, what is the {a} {c}?",
                                            "Return the {a} {c} across all {T}.",
                                            "What {a} {c} do the {T} have?",
                                            NULL};

static const char *const ask_aggregate_where[] = {"What is the {a} {c} of the {T} {w}?",
                                                  "Find the {a} {c} of {T} {w}.",
                                                  "Show the {a} {c} among {T} {w}.",
                                                  "For the {T} {w}, what is the {a} {c}?",
                                                  "Give me the {a} {c} of all {T} {w}.",
                                                  "Tell me the {a} {c} for {T} {w}.",
                                                  "Looking only at {T} {w}, show the {a} {c}.",
                                                  "Compute the {a} {c} of the {T} {w}.",
                                                  "I need the {a} {c} over all {T} {w}.",
                                                  "Among {T} {w}, what is the {a} {c}?",
                                                  NULL};

static const char *const ask_filter[] = {"Which {T} {v}?",
                                         "List the {T} {w}.",
                                         "Show the {T} {w}.",
                                         "Find all {T} {w}.",
                                         "Give me the {T} {w}.",
                                         "Tell me which {T} {v}.",
                                         "Name the {T} {w}.",
                                         "I am looking for {T} {w}.",
                                         "Find {T} {w}.",
                                         "Name all {T} {w}.",
                                         "Show me which {T} {v}.",
                                         "List the {L} of the {T} {w}.",
                                         "What are the {L} of the {T} {w}?",
                                         NULL};

static const char *const ask_filter_column[] = {
    "What are the {C} of the {T} {w}?",   "List the {C} of {T} {w}.",        "Show the {C} of all {T} {w}.",
    "Give me the {C} of the {T} {w}.",    "Tell me the {C} of the {T} {w}.", "For {T} {w}, show the {c}.",
    "Find the {T} {w} and show the {c}.", "Which {C} do the {T} {w} have?",  "I need the {C} of all {T} {w}.",
    "Look up the {C} of {T} {w}.",        "Return only the {C} of {T} {w}.", NULL};

static const char *const ask_lookup[] = {"What is the {c} of {y}?",
                                         "Which {c} does {y} have?",
                                         "Show the {c} of {y}.",
                                         "Tell me the {c} of {y}.",
                                         "Look up the {c} of {y}.",
                                         "Find the {c} for {y}.",
                                         "Give me the {c} of {y}.",
                                         "I need to know the {c} of {y}.",
                                         "What {c} does {y} have?",
                                         "For {y}, show the {c}.",
                                         NULL};

static const char *const ask_sort[] = {"List the {T} sorted by {c} {o}.",    "Show all {T} ordered by {c} {o}.",
                                       "Sort the {T} by {c} {o}.",           "Give me the {T} in order of {c}, {o}.",
                                       "Order the {T} by {c} {o}.",          "Rank the {T} by {c} {o}.",
                                       "Show the {T} by {c}, {o}.",          "Arrange the {T} by {c} {o}.",
                                       "Print all {T}, sorted by {c} {o}.",  "I want the {T} sorted by {c} {o}.",
                                       "Name all {T} in order of {c}, {o}.", NULL};

static const char *const ask_top[] = {"Which {n} {T} have the {h} {c}?",        "List the {n} {T} with the {h} {c}.",
                                      "Find the {n} {T} with the {h} {c}.",     "Give me the {n} {T} that have the {h} {c}.",
                                      "What are the {n} {T} with the {h} {c}?", "I want the {n} {T} with the {h} {c}.",
                                      "Show which {n} {T} have the {h} {c}.",   NULL};

static const char *const ask_best[] = {"Which {S} has the {h} {c}?",         "Find the {S} with the {h} {c}.",
                                       "Name the {S} with the {h} {c}.",     "Tell me the {S} that has the {h} {c}.",
                                       "List the one {S} with the {h} {c}.", "I am looking for the {S} with the {h} {c}.",
                                       "Tell me which {S} has the {h} {c}.", NULL};

static const char *const ask_group_count[] = {"How many {T} are there for each {c}?",
                                              "Count the {T} per {c}.",
                                              "Show the number of {T} by {c}.",
                                              "For each {c}, how many {T} are there?",
                                              "How many {T} does each {c} have?",
                                              "What is the number of {T} per {c}?",
                                              "Group the {T} by {c} and count them.",
                                              "Give me the number of {T} for every {c}.",
                                              "Count {T} by {c}.",
                                              "List each {c} with its number of {T}.",
                                              "Tell me how many {T} there are per {c}.",
                                              NULL};

static const char *const ask_group_aggregate[] = {"What is the {a} {c} for each {d}?",
                                                  "Show the {a} {c} of the {T} per {d}.",
                                                  "Find the {a} {c} of {T} by {d}.",
                                                  "For each {d}, what is the {a} {c} of the {T}?",
                                                  "Group the {T} by {d} and show the {a} {c}.",
                                                  "Give me the {a} {c} per {d}.",
                                                  "List the {a} {c} of {T} for every {d}.",
                                                  "Compute the {a} {c} for each {d}.",
                                                  "Tell me the {a} {c} by {d}.",
                                                  "List each {d} with the {a} {c} of its {T}.",
                                                  "I need the {a} {c} of the {T} for each {d}.",
                                                  NULL};

const char *const *const tn_phrasings_asking[TN_INTENT_KINDS] = {
    [TN_INTENT_COLUMN] = ask_column,
    [TN_INTENT_COLUMNS] = ask_columns,
    [TN_INTENT_EVERYTHING] = ask_everything,
    [TN_INTENT_EVERYTHING_WHERE] = ask_everything_where,
    [TN_INTENT_DISTINCT] = ask_distinct,
    [TN_INTENT_COUNT] = ask_count,
    [TN_INTENT_COUNT_WHERE] = ask_count_where,
    [TN_INTENT_AGGREGATE] = ask_aggregate,
    [TN_INTENT_AGGREGATE_WHERE] = ask_aggregate_where,
    [TN_INTENT_FILTER] = ask_filter,
    [TN_INTENT_FILTER_BOTH] = ask_filter,
    [TN_INTENT_FILTER_COLUMN] = ask_filter_column,
    [TN_INTENT_LOOKUP] = ask_lookup,
    [TN_INTENT_SORT] = ask_sort,
    [TN_INTENT_TOP] = ask_top,
    [TN_INTENT_BEST] = ask_best,
    [TN_INTENT_GROUP_COUNT] = ask_group_count,
    [TN_INTENT_GROUP_AGGREGATE] = ask_group_aggregate,
};

const char *const *const tn_phrasings_describing[TN_INTENT_KINDS] = {
    [TN_INTENT_COLUMN] = LIST("the {c} of every {S}", "all {C} of the {T}", "the {C} of all {T}"),
    [TN_INTENT_COLUMNS] = LIST("the {c} and the {d} of every {S}", "the {C} and {D} of all {T}"),
    [TN_INTENT_EVERYTHING] = LIST("all columns of every {S}", "everything about the {T}", "the full records of all {T}"),
    [TN_INTENT_EVERYTHING_WHERE] =
        LIST("all columns of the {T} {w}", "everything about the {T} {w}", "the full records of {T} {w}"),
    [TN_INTENT_DISTINCT] =
        LIST("the different {C} of the {T}", "every {c} of the {T} only once", "the distinct {C} of the {T}"),
    [TN_INTENT_COUNT] = LIST("the number of {T}", "how many {T} there are", "the count of all {T}"),
    [TN_INTENT_COUNT_WHERE] = LIST("the number of {T} {w}", "how many {T} {v}", "the count of {T} {w}"),
    [TN_INTENT_AGGREGATE] = LIST("the {a} {c} of all {T}", "the {a} {c} of the {T}"),
    [TN_INTENT_AGGREGATE_WHERE] = LIST("the {a} {c} of the {T} {w}", "the {a} {c} among {T} {w}"),
    [TN_INTENT_FILTER] = LIST("the {L} of the {T} {w}", "the {T} {w}", "which {T} {v}"),
    [TN_INTENT_FILTER_BOTH] = LIST("the {L} of the {T} {w}", "the {T} {w}", "which {T} {v}"),
    [TN_INTENT_FILTER_COLUMN] = LIST("the {C} of the {T} {w}", "the {c} of all {T} {w}"),
    [TN_INTENT_LOOKUP] = LIST("the {c} of {y}", "the {c} of the {S} called {x}"),
    [TN_INTENT_SORT] = LIST("the {T} sorted by {c} {o}", "the {L} of the {T} by {c}, {o}"),
    [TN_INTENT_TOP] = LIST("the {n} {T} with the {h} {c}", "the {L} of the {n} {T} with the {h} {c}"),
    [TN_INTENT_BEST] = LIST("the {S} with the {h} {c}", "the {l} of the {S} that has the {h} {c}"),
    [TN_INTENT_GROUP_COUNT] = LIST("the number of {T} for each {c}", "how many {T} there are per {c}"),
    [TN_INTENT_GROUP_AGGREGATE] = LIST("the {a} {c} for each {d}", "the {a} {c} of the {T} per {d}"),
};
