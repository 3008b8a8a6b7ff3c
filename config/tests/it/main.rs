//! docker-compose.yml, its image, its proxy and its secrets, as far as they can be judged without starting them.

mod image;
mod proxy;
mod rules;
mod secrets;
mod settings;
mod specification;
mod stack;
