/* Pools of text values. Pools that may meet in one table share no word. */
#include "words.h"

#include <stddef.h>

const char *const tn_words_person[] = {
    "Ada",   "Bo",    "Carla", "David", "Elena", "Felix", "Greta",  "Hugo",  "Ines",   "Jonas", "Karin", "Leo",   "Maria",
    "Nils",  "Olga",  "Paul",  "Quinn", "Rosa",  "Simon", "Tina",   "Uma",   "Victor", "Wanda", "Xenia", "Yusuf", "Zara",
    "Anton", "Bella", "Clara", "Diego", "Emma",  "Frank", "Gina",   "Henry", "Irene",  "Jack",  "Kate",  "Laura", "Martin",
    "Nora",  "Oscar", "Petra", "Ralf",  "Sara",  "Tom",   "Ulla",   "Vera",  "Walter", "Yara",  "Peter", "José",  "Zoë",
    "Søren", "Amir",  "Bruno", "Chloe", "Dana",  "Erik",  "Fatima", "Georg", NULL};

const char *const tn_words_pet[] = {"Rex",    "Luna",   "Milo",  "Bingo",  "Rocky", "Daisy",  "Coco",    "Max",    "Nala",
                                    "Oreo",   "Pepper", "Ruby",  "Shadow", "Toby",  "Willow", "Biscuit", "Ginger", "Hazel",
                                    "Jasper", "Kiki",   "Lucky", "Misty",  "Poppy", "Smokey", NULL};

/* Made up of the two pools below by tn_value_draw; the arrays only stand for the kind. */
const char *const tn_words_title[] = {NULL};
const char *const tn_words_place[] = {NULL};
const char *const tn_words_code[] = {NULL};

const char *const tn_words_adjective[] = {"Silent", "Golden", "Hidden",  "Broken",  "Winter", "Summer",
                                          "Lost",   "Last",   "Silver",  "Distant", "Quiet",  "Northern",
                                          "Empty",  "Bright", "Ancient", "Secret",  NULL};
const char *const tn_words_noun[] = {"River",  "Garden", "Mountain", "Harbor", "Forest", "Bridge",
                                     "Island", "Road",   "Castle",   "Valley", "Window", "Lake",
                                     "Tower",  "Meadow", "Star",     "Mirror", NULL};

const char *const tn_words_model[] = {"Falcon", "Comet", "Breeze", "Pioneer", "Vista", "Rapid",  "Orbit",
                                      "Nomad",  "Spark", "Titan",  "Echo",    "Delta", "Fusion", "Pulse",
                                      "Zenith", "Arrow", "Bolt",   "Cobra",   "Drift", "Ember",  NULL};

const char *const tn_words_product[] = {"kettle", "lantern", "blanket",  "hammer", "mug",   "pillow", "notebook",
                                        "basket", "bottle",  "candle",   "drill",  "pan",   "towel",  "ladder",
                                        "mirror", "pencil",  "rope",     "scarf",  "stool", "tent",   "umbrella",
                                        "vase",   "whistle", "backpack", "clock",  "fork",  NULL};

const char *const tn_words_city[] = {
    "Oslo",   "Paris",   "Rome",   "Lima",   "Berlin",   "Madrid",    "Lisbon",    "Vienna",  "Prague",  "Dublin",
    "Athens", "Cairo",   "Tokyo",  "Delhi",  "Boston",   "Denver",    "Austin",    "Seattle", "Quito",   "Bogota",
    "Havana", "Nairobi", "Dakar",  "Tunis",  "Milan",    "Turin",     "Porto",     "Malmo",   "Bergen",  "Helsinki",
    "Riga",   "Warsaw",  "Krakow", "Geneva", "Zurich",   "Lyon",      "Nice",      "Ghent",   "Hamburg", "Munich",
    "Sydney", "Perth",   "Osaka",  "Hanoi",  "New York", "Cape Town", "San Diego", "Leeds",   NULL};

const char *const tn_words_country[] = {
    "Norway", "France",  "Italy",  "Peru",    "Germany", "Spain",   "Portugal", "Austria", "Ireland", "Greece",
    "Egypt",  "Japan",   "India",  "Canada",  "Mexico",  "Brazil",  "Chile",    "Kenya",   "Ghana",   "Morocco",
    "Sweden", "Finland", "Poland", "Belgium", "Turkey",  "Vietnam", "Cuba",     "Iceland", NULL};

const char *const tn_words_department[] = {"Sales",    "Finance", "Marketing", "Research", "Legal",   "Support", "Logistics",
                                           "Security", "Design",  "Planning",  "Training", "Quality", NULL};

/* All take "a", never "an". */
const char *const tn_words_job[] = {"nurse",  "baker",  "driver",   "teacher", "cook",    "lawyer",   "painter", "plumber",
                                    "singer", "clerk",  "pilot",    "guard",   "dentist", "farmer",   "writer",  "tailor",
                                    "welder", "waiter", "designer", "manager", "builder", "gardener", NULL};

const char *const tn_words_language[] = {"English", "French", "German", "Spanish", "Italian", "Danish",
                                         "Swedish", "Polish", "Czech",  "Greek",   "Turkish", "Arabic",
                                         "Hindi",   "Korean", "Dutch",  "Swahili", NULL};

const char *const tn_words_colour[] = {"red",  "blue",   "green",  "yellow", "black", "white", "brown",
                                       "grey", "orange", "purple", "pink",   "beige", NULL};

const char *const tn_words_brand[] = {"Acme",   "Nordic", "Solara", "Vento", "Kora",   "Lumen",  "Tekno",
                                      "Alpina", "Marvo",  "Zephyr", "Brava", "Cirrus", "Dynamo", "Everest",
                                      "Fenix",  "Globo",  "Hexa",   "Iris",  NULL};

const char *const tn_words_category[] = {"toys",   "food",    "garden", "kitchen", "office",   "travel",  "music", "beauty",
                                         "health", "camping", "bath",   "crafts",  "lighting", "storage", NULL};

const char *const tn_words_genre[] = {"drama",   "comedy",  "crime",     "fantasy", "history", "romance", "horror",
                                      "western", "mystery", "adventure", "satire",  "jazz",    NULL};

const char *const tn_words_status[] = {"open",      "closed",  "paid", "pending",  "late", "done",
                                       "cancelled", "blocked", "new",  "approved", NULL};

const char *const tn_words_material[] = {"wood",  "steel", "glass",  "plastic", "cotton", "leather", "wool",
                                         "paper", "stone", "copper", "bamboo",  "clay",   NULL};

const char *const tn_words_sport[] = {"tennis",   "football",   "hockey",  "rugby",    "golf", "chess",
                                      "handball", "volleyball", "cricket", "baseball", NULL};

const char *const tn_words_team[] = {"Tigers",  "Eagles", "Sharks", "Wolves", "Bears", "Lions", "Rockets",
                                     "Pirates", "Kings",  "Giants", "Hawks",  "Bulls", NULL};

const char *const tn_words_cuisine[] = {"Thai",     "Indian", "Mexican", "Japanese", "Lebanese", "Chinese",
                                        "Moroccan", "Vegan",  "Persian", "Cuban",    NULL};

const char *const tn_words_fuel[] = {"diesel", "petrol", "gas", "hydrogen", "electricity", NULL};

const char *const tn_words_size[] = {"small", "medium", "large", "tiny", "huge", NULL};

const char *const tn_words_species[] = {"cat",  "dog",   "rabbit", "parrot", "hamster", "turtle",
                                        "goat", "horse", "duck",   "snake",  NULL};

const char *const tn_words_priority[] = {"low", "normal", "high", "urgent", NULL};

const char *const tn_words_airline[] = {"Skyway",  "Aerona",   "Jetline", "Cloudair", "Polaris",
                                        "Sunwing", "Northjet", "Blueair", NULL};
