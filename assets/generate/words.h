/* Pools of text values; each ends with NULL. */
#ifndef TN_GENERATE_WORDS_H
#define TN_GENERATE_WORDS_H

extern const char *const tn_words_person[], *const tn_words_pet[], *const tn_words_title[], *const tn_words_place[];
extern const char *const tn_words_model[], *const tn_words_product[], *const tn_words_code[];
extern const char *const tn_words_city[], *const tn_words_country[], *const tn_words_department[], *const tn_words_job[];
extern const char *const tn_words_language[], *const tn_words_colour[], *const tn_words_brand[], *const tn_words_category[];
extern const char *const tn_words_genre[], *const tn_words_status[], *const tn_words_material[], *const tn_words_sport[];
extern const char *const tn_words_team[], *const tn_words_cuisine[], *const tn_words_fuel[], *const tn_words_size[];
extern const char *const tn_words_species[], *const tn_words_priority[], *const tn_words_airline[];

/* Adjectives and nouns that titles and place names are made of. */
extern const char *const tn_words_adjective[], *const tn_words_noun[];

#endif
