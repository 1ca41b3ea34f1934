/* Little stories: facts are drawn once and come back in several sentences, so that telling them takes copying. Slots: p, q
 * the people; c, k their cities; j, i their jobs; n, l their countries; s, t their languages; o a colour, b a brand, g a
 * pet, a its species, f a sport, r a product, d a department, x a title, u a cuisine, h a team; 1 to 4 numbers; y a year. */
#include "story.h"

#include <stdio.h>
#include <string.h>

#include "words.h"
#include "world.h"

static const char *const sentences_of_fact[] = {"{p} lives in {c} and works as a {j}.",
                                                "{q} comes from {l} but lives in {k} now.",
                                                "In {c}, {p} has a {o} house.",
                                                "{p} and {q} met in {k}, where {q} works as a {i}.",
                                                "{q} is {1} years old and speaks {t}.",
                                                "{p} is {2} years old and speaks {s} and {t}.",
                                                "The {a} {g} belongs to {p}.",
                                                "{p} has a {a} called {g}.",
                                                "Every week {p} plays {f} with {q} in {c}.",
                                                "{q} likes the {h}, but {p} likes {f} more than anything.",
                                                "{p} bought a {o} {r} made by {b} for {3}.",
                                                "The {r} from {b} cost {3}, and {q} paid for it.",
                                                "{q} works in {d} and earns {4} a month.",
                                                "As a {i}, {q} earns {4}.",
                                                "{p} wrote the book {x} in the year {y}.",
                                                "{x} is a book by {p}; it appeared in {y}.",
                                                "{q} owns a restaurant in {k} that serves {u} food.",
                                                "On Sunday {q} takes the train from {k} to {c}.",
                                                "{p} moved from {k} to {c} in {y}.",
                                                "{g} the {a} is {o} and very quiet.",
                                                "{q} read {x} twice and rated it above all other books by {p}.",
                                                "The hotel in {c} was too expensive for {q}, so {q} stayed with {p}."};

static const char *const sentences_of_recall[] = {"So {p} lives in {c}, and {q} lives in {k}.",
                                                  "To sum up, {p} is a {j} and {q} is a {i}.",
                                                  "Who lives in {k}? It is {q}.",
                                                  "Where does {p} live? In {c}.",
                                                  "How old is {q}? {q} is {1}.",
                                                  "What does {p} do? {p} works as a {j}.",
                                                  "Whose {a} is {g}? It is the {a} of {p}.",
                                                  "Who wrote {x}? It was {p}, in {y}.",
                                                  "What did the {r} cost? It cost {3}.",
                                                  "How much does {q} earn? {4} a month."};

static const struct slot {
    char key;
    const char *const *words;
} word_slots[] = {{'p', tn_words_person},     {'q', tn_words_person},   {'c', tn_words_city},    {'k', tn_words_city},
                  {'j', tn_words_job},        {'i', tn_words_job},      {'n', tn_words_country}, {'l', tn_words_country},
                  {'s', tn_words_language},   {'t', tn_words_language}, {'o', tn_words_colour},  {'b', tn_words_brand},
                  {'g', tn_words_pet},        {'a', tn_words_species},  {'f', tn_words_sport},   {'r', tn_words_product},
                  {'d', tn_words_department}, {'x', tn_words_title},    {'u', tn_words_cuisine}, {'h', tn_words_team}};

static const struct {
    char key;
    int low, high;
} number_slots[] = {{'1', 18, 80}, {'2', 18, 80}, {'3', 3, 990}, {'4', 1500, 9900}, {'y', 1950, 2024}};

enum { WORD_SLOTS = sizeof word_slots / sizeof *word_slots, NUMBER_SLOTS = sizeof number_slots / sizeof *number_slots };

typedef struct facts {
    char text[WORD_SLOTS + NUMBER_SLOTS][TN_VALUE_SIZE];
    char keys[WORD_SLOTS + NUMBER_SLOTS + 1];
} facts;

static facts draw_facts(tn_rng *rng) {
    facts known = {0};
    for (int i = 0; i < WORD_SLOTS; i++) {
        tn_concept concept = {.type = TN_VALUE_TEXT, .words = word_slots[i].words};
        tn_value value;
        do
            value = tn_value_draw(rng, &concept);
        while (i % 2 && word_slots[i].words == word_slots[i - 1].words && strcmp(value.text, known.text[i - 1]) == 0);
        memcpy(known.text[i], value.text, TN_VALUE_SIZE);
        known.keys[i] = word_slots[i].key;
    }
    for (int i = 0; i < NUMBER_SLOTS; i++) {
        int number = number_slots[i].low + tn_draw(rng, number_slots[i].high - number_slots[i].low);
        snprintf(known.text[WORD_SLOTS + i], TN_VALUE_SIZE, "%d", number);
        known.keys[WORD_SLOTS + i] = number_slots[i].key;
    }
    return known;
}

static void put_sentence(const facts *known, const char *pattern, tn_buf *out) {
    for (const char *p = pattern; *p; p++) {
        if (*p == '{') {
            tn_buf_puts(out, known->text[strchr(known->keys, p[1]) - known->keys]);
            p += 2;
        } else {
            tn_buf_putc(out, *p);
        }
    }
}

void tn_story_tell(tn_rng *rng, int sentences, tn_buf *out) {
    facts known = draw_facts(rng);
    int used[32] = {0}, kinds = (int)(sizeof sentences_of_fact / sizeof *sentences_of_fact);
    for (int i = 0; i < sentences; i++) {
        int pick = tn_draw(rng, kinds);
        if (i == sentences - 1) {
            put_sentence(&known, TN_DRAW_OF(rng, sentences_of_recall), out);
        } else if (!used[pick]) {
            used[pick] = 1;
            put_sentence(&known, sentences_of_fact[pick], out);
            tn_buf_puts(out, " ");
        } else {
            i--;
        }
    }
}
