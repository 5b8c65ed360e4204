"""The ground floor: types, trees and errors. Imports nothing of jaxgen."""
