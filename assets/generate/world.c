/* Concepts and tables of the world. */
#include "world.h"

#include <stdio.h>
#include <string.h>

#include "words.h"

enum concept_id {
    END,
    PERSON,
    THING,
    TITLE,
    CODE,
    PET,
    MODEL,
    PLACE, /* labels */
    HOME,
    SITE,
    COUNTRY,
    REGION,
    DEPARTMENT,
    JOB,
    SPEAKS,
    WRITTEN_IN,
    COLOUR,
    BRAND,
    CATEGORY,
    GENRE,
    AUTHOR,
    DIRECTOR,
    ARTIST,
    OWNER,
    CUSTOMER,
    STATUS,
    MATERIAL,
    SPORT,
    TEAM,
    CUISINE,
    FUEL,
    SIZE,
    TEACHER,
    SPECIES,
    AIRLINE,
    DESTINATION,
    ORIGIN,
    PRIORITY,
    SALARY,
    AGE,
    PET_AGE,
    PRICE,
    WEIGHT,
    HEIGHT,
    LENGTH,
    DURATION,
    YEAR,
    PAGES,
    STOCK,
    RATING,
    POPULATION,
    DISTANCE,
    SPEED,
    SEATS,
    ROOMS,
    GOALS,
    POINTS,
    AMOUNT,
    DEPTH,
    BUDGET,
    AREA,
    VISITORS,
    HOURS,
    MARK,
    RENT,
    EXPERIENCE,
    HIRED,
    JOINED,
    BORN,
    DUE,
    OPENED,
    SHIPPED,
    RELEASED,
    BOUGHT,
    CREATED,
    CONCEPT_COUNT
};

#define NAME(word)                                                                                                          \
    { #word, #word, #word "s" }

static const tn_concept concepts[CONCEPT_COUNT] = {
    [PERSON] = {{NAME(name), {"fullname", "name", "names"}}, .words = tn_words_person},
    [THING] = {{NAME(name), NAME(label)}, .words = tn_words_product},
    [TITLE] = {{NAME(title), NAME(name)}, .words = tn_words_title},
    [CODE] = {{NAME(code), NAME(id)}, .words = tn_words_code},
    [PET] = {{NAME(name)}, .words = tn_words_pet},
    [MODEL] = {{NAME(model), NAME(name)}, .words = tn_words_model},
    [PLACE] = {{NAME(name)}, .words = tn_words_place},

    [HOME] = {{{"city", "city", "cities"}, NAME(town)}, .words = tn_words_city, .is = "live in %", .short_is = "in %"},
    [SITE] = {{{"city", "city", "cities"}, NAME(town), NAME(location)},
              .words = tn_words_city,
              .is = "are in %",
              .short_is = "in %"},
    [COUNTRY] = {{{"country", "country", "countries"}, NAME(nation)},
                 .words = tn_words_country,
                 .is = "come from %",
                 .short_is = "from %"},
    [REGION] = {{{"country", "country", "countries"}, NAME(nation)}, .words = tn_words_country, .is = "lie in %"},
    [DEPARTMENT] = {{NAME(department), NAME(division)}, .words = tn_words_department, .is = "work in %"},
    [JOB] = {{NAME(job), NAME(role), NAME(position)}, .words = tn_words_job, .is = "work as a %"},
    [SPEAKS] = {{NAME(language)}, .words = tn_words_language, .is = "speak %"},
    [WRITTEN_IN] = {{NAME(language)}, .words = tn_words_language, .is = "are in %", .short_is = "in %"},
    [COLOUR] = {{NAME(color), NAME(colour)}, .words = tn_words_colour, .is = "are %"},
    [BRAND] = {{NAME(brand), NAME(maker)}, .words = tn_words_brand, .is = "are made by %", .short_is = "by %"},
    [CATEGORY] = {{{"category", "category", "categories"}, NAME(type)}, .words = tn_words_category},
    [GENRE] = {{NAME(genre), NAME(style)}, .words = tn_words_genre},
    [AUTHOR] = {{NAME(author), NAME(writer)}, .words = tn_words_person, .is = "are written by %", .short_is = "by %"},
    [DIRECTOR] = {{NAME(director)}, .words = tn_words_person, .is = "are directed by %", .short_is = "by %"},
    [ARTIST] = {{NAME(artist), NAME(singer)}, .words = tn_words_person, .is = "are sung by %", .short_is = "by %"},
    [OWNER] = {{NAME(owner), NAME(keeper)}, .words = tn_words_person, .is = "belong to %", .short_is = "of %"},
    [CUSTOMER] = {{NAME(customer), NAME(client), NAME(buyer)},
                  .words = tn_words_person,
                  .is = "are for %",
                  .short_is = "for %"},
    [STATUS] = {{{"status", "status", "statuses"}, NAME(state)}, .words = tn_words_status, .is = "are marked %"},
    [MATERIAL] = {{NAME(material)}, .words = tn_words_material, .is = "are made of %", .short_is = "of %"},
    [SPORT] = {{NAME(sport)}, .words = tn_words_sport, .is = "play %"},
    [TEAM] = {{NAME(team), NAME(club)}, .words = tn_words_team, .is = "belong to the %", .short_is = "of the %"},
    [CUISINE] = {{NAME(cuisine)}, .words = tn_words_cuisine, .is = "serve % food"},
    [FUEL] = {{NAME(fuel)}, .words = tn_words_fuel, .is = "run on %"},
    [SIZE] = {{NAME(size)}, .words = tn_words_size},
    [TEACHER] = {{NAME(teacher), NAME(tutor)}, .words = tn_words_person, .is = "are taught by %", .short_is = "by %"},
    [SPECIES] = {{{"species", "species", "species"}, NAME(animal)}, .words = tn_words_species},
    [AIRLINE] = {{NAME(airline), NAME(carrier)}, .words = tn_words_airline, .is = "are run by %", .short_is = "by %"},
    [DESTINATION] = {{NAME(destination)}, .words = tn_words_city, .is = "go to %", .short_is = "to %"},
    [ORIGIN] = {{NAME(origin)}, .words = tn_words_city, .is = "leave from %", .short_is = "from %"},
    [PRIORITY] = {{{"priority", "priority", "priorities"}}, .words = tn_words_priority},

    [SALARY] = {{{"salary", "salary", "salaries"}, NAME(wage), {"pay", "pay", "pays"}},
                TN_VALUE_NUMBER,
                .additive = true,
                .low = 1500,
                .high = 9900,
                .step = 10},
    [AGE] = {{NAME(age)}, TN_VALUE_NUMBER, .low = 18, .high = 80, .step = 1},
    [PET_AGE] = {{NAME(age)}, TN_VALUE_NUMBER, .low = 2, .high = 20, .step = 1},
    [PRICE] = {{NAME(price), NAME(cost)}, TN_VALUE_NUMBER, .additive = true, .low = 3, .high = 990, .step = 1},
    [WEIGHT] = {{NAME(weight)}, TN_VALUE_NUMBER, .additive = true, .low = 2, .high = 950, .step = 1},
    [HEIGHT] = {{NAME(height)}, TN_VALUE_NUMBER, .low = 20, .high = 980, .step = 1},
    [LENGTH] = {{NAME(length)}, TN_VALUE_NUMBER, .additive = true, .low = 20, .high = 4000, .step = 5},
    [DURATION] = {{NAME(duration), NAME(runtime)}, TN_VALUE_NUMBER, .additive = true, .low = 20, .high = 240, .step = 1},
    [YEAR] = {{NAME(year)}, TN_VALUE_NUMBER, .in_time = true, .low = 1950, .high = 2024, .step = 1},
    [PAGES] = {{{"pages", "number of pages", "numbers of pages"}},
               TN_VALUE_NUMBER,
               .additive = true,
               .low = 40,
               .high = 900,
               .step = 1},
    [STOCK] = {{NAME(stock), {"quantity", "quantity", "quantities"}},
               TN_VALUE_NUMBER,
               .additive = true,
               .low = 5,
               .high = 600,
               .step = 1},
    [RATING] = {{NAME(rating), NAME(score)}, TN_VALUE_NUMBER, .low = 10, .high = 99, .step = 1},
    [POPULATION] = {{NAME(population)}, TN_VALUE_NUMBER, .additive = true, .low = 1200, .high = 98000, .step = 100},
    [DISTANCE] = {{NAME(distance)}, TN_VALUE_NUMBER, .additive = true, .low = 30, .high = 9000, .step = 5},
    [SPEED] = {{NAME(speed)}, TN_VALUE_NUMBER, .low = 15, .high = 320, .step = 1},
    [SEATS] = {{{"seats", "number of seats", "numbers of seats"}},
               TN_VALUE_NUMBER,
               .additive = true,
               .low = 10,
               .high = 500,
               .step = 1},
    [ROOMS] = {{{"rooms", "number of rooms", "numbers of rooms"}},
               TN_VALUE_NUMBER,
               .additive = true,
               .low = 2,
               .high = 300,
               .step = 1},
    [GOALS] = {{{"goals", "number of goals", "numbers of goals"}},
               TN_VALUE_NUMBER,
               .additive = true,
               .low = 2,
               .high = 90,
               .step = 1},
    [POINTS] = {{{"points", "number of points", "numbers of points"}},
                TN_VALUE_NUMBER,
                .additive = true,
                .low = 5,
                .high = 700,
                .step = 1},
    [AMOUNT] = {{NAME(amount)}, TN_VALUE_NUMBER, .additive = true, .low = 15, .high = 5000, .step = 5},
    [DEPTH] = {{NAME(depth)}, TN_VALUE_NUMBER, .low = 5, .high = 400, .step = 1},
    [BUDGET] = {{NAME(budget)}, TN_VALUE_NUMBER, .additive = true, .low = 1000, .high = 90000, .step = 100},
    [AREA] = {{NAME(area)}, TN_VALUE_NUMBER, .additive = true, .low = 20, .high = 7000, .step = 5},
    [VISITORS] = {{{"visitors", "number of visitors", "numbers of visitors"}},
                  TN_VALUE_NUMBER,
                  .additive = true,
                  .low = 200,
                  .high = 9900,
                  .step = 10},
    [HOURS] = {{{"hours", "number of hours", "numbers of hours"}},
               TN_VALUE_NUMBER,
               .additive = true,
               .low = 3,
               .high = 120,
               .step = 1},
    [MARK] = {{NAME(mark), NAME(grade)}, TN_VALUE_NUMBER, .low = 10, .high = 99, .step = 1},
    [RENT] = {{NAME(rent)}, TN_VALUE_NUMBER, .additive = true, .low = 300, .high = 2900, .step = 10},
    [EXPERIENCE] = {{{"experience", "experience", "years of experience"}}, TN_VALUE_NUMBER, .low = 2, .high = 40, .step = 1},

    [HIRED] = {{{"hired", "hire date", "hire dates"}, {"started", "start date", "start dates"}},
               TN_VALUE_DATE,
               .in_time = true},
    [JOINED] = {{{"joined", "joining date", "joining dates"}}, TN_VALUE_DATE, .in_time = true},
    [BORN] = {{{"born", "birth date", "birth dates"}, NAME(birthday)}, TN_VALUE_DATE, .in_time = true},
    [DUE] = {{{"due", "due date", "due dates"}, NAME(deadline)}, TN_VALUE_DATE, .in_time = true},
    [OPENED] = {{{"opened", "opening date", "opening dates"}}, TN_VALUE_DATE, .in_time = true},
    [SHIPPED] = {{{"shipped", "shipping date", "shipping dates"}, {"sent", "sending date", "sending dates"}},
                 TN_VALUE_DATE,
                 .in_time = true},
    [RELEASED] = {{{"released", "release date", "release dates"}}, TN_VALUE_DATE, .in_time = true},
    [BOUGHT] = {{{"bought", "purchase date", "purchase dates"}}, TN_VALUE_DATE, .in_time = true},
    [CREATED] = {{{"created", "creation date", "creation dates"}}, TN_VALUE_DATE, .in_time = true},
};

static const tn_table tables[] = {
    {"employees",
     {"employee", "worker"},
     {"employees", "workers"},
     true,
     PERSON,
     {SALARY, AGE, HOME, DEPARTMENT, JOB, HIRED}},
    {"students", {"student", "pupil"}, {"students", "pupils"}, true, PERSON, {AGE, HOME, MARK, SPORT, TEACHER, JOINED}},
    {"teachers", {"teacher"}, {"teachers"}, true, PERSON, {SALARY, AGE, HOME, SPEAKS, EXPERIENCE, HIRED}},
    {"doctors",
     {"doctor", "physician"},
     {"doctors", "physicians"},
     true,
     PERSON,
     {SALARY, HOME, COUNTRY, SPEAKS, EXPERIENCE, HIRED}},
    {"nurses", {"nurse"}, {"nurses"}, true, PERSON, {SALARY, AGE, HOME, DEPARTMENT, EXPERIENCE, HIRED}},
    {"drivers", {"driver"}, {"drivers"}, true, PERSON, {SALARY, AGE, HOME, POINTS, TEAM, BORN}},
    {"players", {"player", "athlete"}, {"players", "athletes"}, true, PERSON, {AGE, GOALS, TEAM, COUNTRY, SPORT, SALARY}},
    {"customers", {"customer", "client"}, {"customers", "clients"}, true, PERSON, {AGE, HOME, COUNTRY, POINTS, JOB, JOINED}},
    {"members", {"member"}, {"members"}, true, PERSON, {AGE, HOME, SPORT, POINTS, STATUS, JOINED}},
    {"guests", {"guest"}, {"guests"}, true, PERSON, {AGE, HOME, COUNTRY, SPEAKS, POINTS, JOB}},
    {"authors", {"author", "writer"}, {"authors", "writers"}, true, PERSON, {AGE, COUNTRY, SPEAKS, GENRE, RATING, HOME}},
    {"singers", {"singer"}, {"singers"}, true, PERSON, {AGE, COUNTRY, HOME, SPEAKS, RATING, BORN}},
    {"actors", {"actor"}, {"actors"}, true, PERSON, {COUNTRY, HOME, SALARY, HEIGHT, RATING, BORN}},
    {"pilots", {"pilot"}, {"pilots"}, true, PERSON, {AGE, AIRLINE, SALARY, HOURS, HOME, HIRED}},
    {"engineers", {"engineer"}, {"engineers"}, true, PERSON, {SALARY, AGE, DEPARTMENT, HOME, EXPERIENCE, HIRED}},
    {"runners", {"runner"}, {"runners"}, true, PERSON, {AGE, COUNTRY, TEAM, WEIGHT, SPEED, HOME}},
    {"tenants", {"tenant"}, {"tenants"}, true, PERSON, {AGE, RENT, HOME, JOB, ROOMS, JOINED}},
    {"volunteers",
     {"volunteer", "helper"},
     {"volunteers", "helpers"},
     true,
     PERSON,
     {AGE, HOME, SPEAKS, HOURS, STATUS, JOINED}},

    {"products",
     {"product", "item"},
     {"products", "items"},
     false,
     THING,
     {PRICE, STOCK, CATEGORY, BRAND, MATERIAL, CREATED}},
    {"toys", {"toy"}, {"toys"}, false, THING, {PRICE, COLOUR, MATERIAL, BRAND, STOCK, WEIGHT}},
    {"tools", {"tool"}, {"tools"}, false, THING, {PRICE, WEIGHT, BRAND, MATERIAL, OWNER, BOUGHT}},
    {"gifts", {"gift", "present"}, {"gifts", "presents"}, false, THING, {PRICE, COLOUR, CUSTOMER, CATEGORY, SIZE, SHIPPED}},
    {"chairs", {"chair"}, {"chairs"}, false, MODEL, {PRICE, COLOUR, MATERIAL, HEIGHT, WEIGHT, STOCK}},
    {"lamps", {"lamp", "light"}, {"lamps", "lights"}, false, MODEL, {PRICE, COLOUR, HEIGHT, BRAND, SIZE, STOCK}},
    {"cars", {"car", "vehicle"}, {"cars", "vehicles"}, false, MODEL, {PRICE, COLOUR, BRAND, FUEL, SPEED, YEAR}},
    {"bikes", {"bike", "bicycle"}, {"bikes", "bicycles"}, false, MODEL, {PRICE, COLOUR, BRAND, WEIGHT, SIZE, BOUGHT}},
    {"phones", {"phone"}, {"phones"}, false, MODEL, {PRICE, COLOUR, BRAND, WEIGHT, RATING, RELEASED}},
    {"laptops",
     {"laptop", "computer"},
     {"laptops", "computers"},
     false,
     MODEL,
     {PRICE, BRAND, WEIGHT, OWNER, STATUS, BOUGHT}},
    {"boats", {"boat", "ship"}, {"boats", "ships"}, false, MODEL, {LENGTH, SPEED, OWNER, SEATS, FUEL, YEAR}},
    {"trains", {"train"}, {"trains"}, false, CODE, {SPEED, SEATS, ORIGIN, DESTINATION, DISTANCE, FUEL}},
    {"flights", {"flight"}, {"flights"}, false, CODE, {PRICE, AIRLINE, ORIGIN, DESTINATION, DURATION, SEATS}},

    {"books", {"book"}, {"books"}, false, TITLE, {PRICE, PAGES, AUTHOR, GENRE, YEAR, WRITTEN_IN}},
    {"films", {"film", "movie"}, {"films", "movies"}, false, TITLE, {DURATION, DIRECTOR, GENRE, RATING, YEAR, BUDGET}},
    {"songs", {"song", "track"}, {"songs", "tracks"}, false, TITLE, {DURATION, ARTIST, GENRE, RATING, WRITTEN_IN, RELEASED}},
    {"games", {"game"}, {"games"}, false, TITLE, {PRICE, BRAND, GENRE, RATING, HOURS, RELEASED}},
    {"articles", {"article"}, {"articles"}, false, TITLE, {PAGES, AUTHOR, WRITTEN_IN, STATUS, RATING, CREATED}},
    {"courses",
     {"course", "class"},
     {"courses", "classes"},
     false,
     TITLE,
     {PRICE, HOURS, TEACHER, SEATS, WRITTEN_IN, STATUS}},
    {"projects", {"project"}, {"projects"}, false, TITLE, {BUDGET, STATUS, OWNER, PRIORITY, HOURS, DUE}},

    {"hotels", {"hotel"}, {"hotels"}, false, PLACE, {PRICE, ROOMS, SITE, RATING, REGION, OPENED}},
    {"museums", {"museum"}, {"museums"}, false, PLACE, {PRICE, SITE, VISITORS, AREA, RATING, OPENED}},
    {"parks", {"park"}, {"parks"}, false, PLACE, {AREA, SITE, VISITORS, SIZE, RATING, OPENED}},
    {"restaurants", {"restaurant"}, {"restaurants"}, false, PLACE, {CUISINE, SITE, SEATS, RATING, OWNER, OPENED}},
    {"shops", {"shop", "store"}, {"shops", "stores"}, false, PLACE, {SITE, RENT, AREA, OWNER, CATEGORY, OPENED}},
    {"houses", {"house", "home"}, {"houses", "homes"}, false, CODE, {PRICE, ROOMS, SITE, AREA, OWNER, YEAR}},
    {"bridges", {"bridge"}, {"bridges"}, false, PLACE, {LENGTH, HEIGHT, SITE, MATERIAL, YEAR, REGION}},
    {"lakes", {"lake"}, {"lakes"}, false, PLACE, {DEPTH, AREA, REGION, VISITORS, SIZE, LENGTH}},
    {"villages", {"village"}, {"villages"}, false, PLACE, {POPULATION, AREA, REGION, SPEAKS, VISITORS, SIZE}},

    {"orders", {"order"}, {"orders"}, false, CODE, {AMOUNT, CUSTOMER, STATUS, SITE, WEIGHT, SHIPPED}},
    {"invoices",
     {"invoice", "bill"},
     {"invoices", "bills"},
     false,
     CODE,
     {AMOUNT, CUSTOMER, STATUS, PRIORITY, COUNTRY, DUE}},
    {"parcels",
     {"parcel", "package"},
     {"parcels", "packages"},
     false,
     CODE,
     {WEIGHT, DESTINATION, CUSTOMER, STATUS, SIZE, SHIPPED}},
    {"tickets", {"ticket"}, {"tickets"}, false, CODE, {PRICE, CUSTOMER, STATUS, PRIORITY, DESTINATION, CREATED}},
    {"tasks", {"task"}, {"tasks"}, false, TITLE, {HOURS, OWNER, STATUS, PRIORITY, CATEGORY, DUE}},

    {"pets", {"pet"}, {"pets"}, false, PET, {PET_AGE, SPECIES, OWNER, WEIGHT, COLOUR, PRICE}},
    {"dogs", {"dog"}, {"dogs"}, false, PET, {PET_AGE, OWNER, WEIGHT, COLOUR, HEIGHT, COUNTRY}},
    {"horses", {"horse"}, {"horses"}, false, PET, {PET_AGE, OWNER, SPEED, COLOUR, HEIGHT, PRICE}},
    {"teams", {"team", "club"}, {"teams", "clubs"}, false, PLACE, {POINTS, GOALS, SITE, SPORT, BUDGET, COUNTRY}},
};

int tn_world_table_count(void) {
    return (int)(sizeof tables / sizeof *tables);
}

const tn_table *tn_world_table(int index) {
    return &tables[index];
}

const tn_concept *tn_world_concept(int id) {
    return &concepts[id];
}

int tn_concept_name_count(const tn_concept *concept) {
    int count = 0;
    while (count < TN_CONCEPT_NAMES && concept->names[count].column)
        count++;
    return count;
}

int tn_draw(tn_rng *rng, int bound) {
    return (int)tn_rng_below(rng, (uint32_t)bound);
}

bool tn_draw_chance(tn_rng *rng, int percent) {
    return tn_draw(rng, 100) < percent;
}

static const char *draw_word(tn_rng *rng, const char *const *words) {
    int count = 0;
    while (words[count])
        count++;
    return words[tn_draw(rng, count)];
}

static void draw_text(tn_rng *rng, const char *const *words, char *text) {
    if (words == tn_words_title || words == tn_words_place) {
        const char *adjective = draw_word(rng, tn_words_adjective);
        snprintf(text, TN_VALUE_SIZE, "%s %s", adjective, draw_word(rng, tn_words_noun));
    } else if (words == tn_words_code) {
        int letter = tn_draw(rng, 26);
        snprintf(text, TN_VALUE_SIZE, "%c%03d", 'A' + letter, 100 + tn_draw(rng, 900));
    } else {
        snprintf(text, TN_VALUE_SIZE, "%s", draw_word(rng, words));
    }
}

/* Two leading digits, as in round figures; years and other short spans stay exact. */
static int round_figure(int number, const tn_concept *concept) {
    int unit = 1;
    if (concept->in_time)
        return number;
    for (int rest = number; rest >= 100; rest /= 10)
        unit *= 10;
    return number / unit * unit;
}

tn_value tn_value_draw(tn_rng *rng, const tn_concept *concept) {
    tn_value value = {.number = 0};
    if (concept->type == TN_VALUE_TEXT) {
        draw_text(rng, concept->words, value.text);
    } else if (concept->type == TN_VALUE_NUMBER) {
        value.number = concept->low + concept->step * tn_draw(rng, (concept->high - concept->low) / concept->step + 1);
        value.number = round_figure(value.number, concept);
        snprintf(value.text, sizeof value.text, "%d", value.number);
    } else {
        unsigned year = 2010 + tn_rng_below(rng, 15), month = 1 + tn_rng_below(rng, 12), day = 1 + 14 * tn_rng_below(rng, 2);
        snprintf(value.text, sizeof value.text, "%04u-%02u-%02u", year % 10000, month % 100, day % 100);
    }
    return value;
}

int tn_value_compare(const tn_concept *concept, const tn_value *a, const tn_value *b) {
    return concept->type == TN_VALUE_NUMBER ? (a->number > b->number) - (a->number < b->number) : strcmp(a->text, b->text);
}
