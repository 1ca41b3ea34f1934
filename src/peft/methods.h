/* The methods, each in a file of its own. */
#ifndef TN_PEFT_METHODS_H
#define TN_PEFT_METHODS_H

#include "peft/method.h"

extern const tn_peft_method tn_loha;
extern const tn_peft_method tn_lokr;

#endif
